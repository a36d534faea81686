"""The user meets the nouns: command line, report, plots."""
