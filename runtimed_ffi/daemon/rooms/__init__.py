"""Rooms of a notebook: peers, requests, executions, outputs.

Storey: daemon (7).

=============  ============================================================
module         noun
=============  ============================================================
``rooms``      the rooms that are open; events of the host about them
``room``       one room: its peers, its kernel
``requests``   requests of peers of a room
``execution``  the queue of a room, from request to ``execution_done``
``run``        one execution
``outputs``    kernel messages become document changes and broadcasts
``writer``     the outputs of a room's executions
``streams``    stream text, in pieces and as one output
``displays``   outputs that can be updated
``comms``      widgets, and what peers that join later get of them
=============  ============================================================
"""
