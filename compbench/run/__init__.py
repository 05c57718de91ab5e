"""Cells become records: each cell is a process of its own on a slot of this machine, its record is kept in a folder.

``store`` keeps the records, ``machine`` describes what they were made on, ``selection`` says which cells to run,
``slots`` what they are placed on; ``scheduler`` starts and ends their processes and knows nothing of results,
``ending`` turns a process' end into a record, ``progress`` and ``estimate`` show how far it is; ``runner`` puts these
together, and ``cell`` is what runs inside the process.
"""
