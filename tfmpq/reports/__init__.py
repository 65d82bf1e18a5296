"""The parts of the report: what is read, what is compared, how it is drawn."""
