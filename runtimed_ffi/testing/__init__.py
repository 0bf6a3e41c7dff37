"""Tools for testing implementations of the protocol; this project's own tests use them.

Storey: testing. Nothing else of the package imports it. Knows the C library's pure tier, sockets and the
specification of protocol 2; knows nothing of our daemon, so that everything here can be pointed at another one.

============== ================================================================================================
`wire`          frames and types of protocol 2 in plain Python
`replicas`      documents and sync states of the library's pure tier
`peers`         a peer of a room made of a plain socket; waiting for several of them
`changes`       Automerge changes written by hand: documents that no program of ours would make
`model`         a notebook as plain lists: what edits must do
`deviations`    documents that are not as section 7.2 says, with what a reader must see
`strategies`    Hypothesis strategies: text, messages, frames, splits, edits, outputs, garbage (extra ``testing``)
`profiles`      how long property tests look (extra ``testing``)
`conformance`   says rule by rule what a daemon keeps: ``python -m runtimed_ffi.testing.conformance --socket PATH``
============== ================================================================================================

Only `strategies`, `profiles` and `deviations` need Hypothesis: ``pip install runtimed-ffi[testing]``. The guide is
docs/properties.md.
"""
