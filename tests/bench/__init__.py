"""`make bench`: what the design buys, measured beside stock Airflow on the same machine in the same run."""
