"""Reports: numbers as text, tables for the terminal, JSON documents, and one HTML file that needs no network."""
