"""Data in memory: tables, lists, Hugging Face data sets and torch datasets read like any other data source."""
