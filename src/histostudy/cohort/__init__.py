"""The cohort: its tables read, checked and joined, its outcomes, the flow of exclusions, Table 1."""
