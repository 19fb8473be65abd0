"""What Airstrip adds to Airflow, installed in its virtualenv."""
