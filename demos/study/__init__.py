"""A blind preference study on the pictures of a batch: the page, the votes, the report. It knows a batch's folder, and
neither models nor guidance."""
