"""What a kernel needs before it can start: environments, and the programs that make them.

Storey: daemon (7).

================  =============================================
module            noun
================  =============================================
``plans``         what a request for a kernel means
``requirements``  the requirements of a notebook
``trust``         whether its dependencies were approved
``pools``         the pools of environments
``pool``          one pool at work
``pool_state``    how many it has, when it builds, when it tries again
``environment``   one environment of a pool
``recipes``       how pooled environments are made
``inline``        environments cached by content
``leases``        directories of environments, and their leases
``removals``      environments that are being removed
``uv``            the program uv
``conda``         the programs that make conda environments
``deno``          the program deno
``tools``         external programs, with deadlines
``diagnosis``     why they failed, and what to do
================  =============================================
"""
