"""Extract, transform and load, without Airflow: clients come in as arguments."""
