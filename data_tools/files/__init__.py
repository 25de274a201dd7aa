"""Files that are whole or not there, on this disk or wherever fsspec reaches."""
