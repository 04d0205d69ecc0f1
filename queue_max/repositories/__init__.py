"""The SQL: one module a table, one method a step in a job's life."""
