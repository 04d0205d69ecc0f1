"""One family of verbs each: open a unit of work, ask the domain, write the verdict, then tell."""
