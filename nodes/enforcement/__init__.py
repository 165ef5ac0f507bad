"""An operator's policy on a whole server: ``CONCEPTGUARD_ENFORCE=policy.yaml``.

Read in this order: ``taint`` (what a value was made from), ``pictures`` (looks at what is born), ``executor`` (where
all of it passes), ``models`` and ``denoiser_lock`` (no sampling without the policy), ``exits``, ``audit``, ``server``.
"""
