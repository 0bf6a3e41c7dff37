"""Notebook files: what rooms and files have to do with each other.

Storey: daemon (7).

==================  ============================================================
module              noun
==================  ============================================================
``notebook_files``  the notebook files of the rooms, seen from the loop
``notebook_file``   the file of one room: filling, merging, saving
``merging``         what a changed file means for a document
``notebooks``       the bytes of a notebook file
``snapshots``       the part of a file's metadata that lives in the document
``bases``           what file and document were when they were last the same
``paths``           paths, reading, replacing
``atomic``          files that are replaced as a whole
``watching``        notices that a file has changed
==================  ============================================================
"""
