"""The report as one HTML page: what it shows, and how it is drawn and written."""
