"""An operator's policy on a whole server: ``CONCEPTGUARD_ENFORCE=policy.yaml``.

Every prompt is rewritten before it is checked and queued, so that whatever samples does so under the policy and
whatever is shown was looked at (``graph``). Behind that, every diffusion model of the process refuses to run outside of
a session with the policy (``denoiser_lock``): what no rewriting could reach gives an error and no image.
"""
