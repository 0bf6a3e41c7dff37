"""The channels without a notebook: pool, settings, blobs.

Storey: daemon (7).

=================  ==================================================================
module             noun
=================  ==================================================================
``pool_requests``  requests on the pool channel
``settings``       the settings that peers share, and what the daemon takes from them
``settings_file``  the settings as a file that people edit
``blob_requests``  requests on the blob channel
``blob_server``    the port of the blob server
``blob_pages``     its answers
=================  ==================================================================
"""
