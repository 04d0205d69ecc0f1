"""Tools of the chaos suites: a ledger, a checker, processes to end, disks to fail."""
