"""A Django project for tests; `settings` beside this are for all of one process."""
