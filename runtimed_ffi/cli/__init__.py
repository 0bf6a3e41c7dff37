"""The command line ``runtimed``: start, stop, restart, status, logs and unit of a daemon; trust; and ``run`` itself.

Storey 8 (command line), above daemon and client. A command finds a daemon by `places`, as the daemon and the client do,
and talks to it as a client does. Of the daemon it knows `daemon.main`, `daemon.options` and `daemon.approval`.

===========  =========================================
module       noun
===========  =========================================
``parser``   the commands and their options
``main``     the entry point: from words to a status
``observe``  what can be known about a daemon
``control``  its start and its end
``status``   the words and numbers for people
``logs``     the end of its log
``unit``     service files
``trust``    the dependencies of a notebook
===========  =========================================
"""
