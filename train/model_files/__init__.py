"""The files a model lies in: fetched, described, read and written by byte range; without torch, but for reader.py."""
