"""Values and decisions; nothing here knows a database, a thread or a setting."""
