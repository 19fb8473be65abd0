"""Says hello each day."""

import pendulum
from airflow.sdk import dag, task


@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1), catchup=False)
def hello():
    """Imports from etl/ come from the same commit as this file."""

    @task
    def say() -> str:
        from etl.greeting import greeting

        return greeting("world")

    say()


hello()
