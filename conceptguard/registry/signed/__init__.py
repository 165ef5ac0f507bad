"""Signed registries: TUF repositories whose targets are the manifests and files of artifacts.

The Update Framework (https://theupdateframework.github.io/specification/latest/; Samuel et al., CCS 2010): four roles
sign what there is, with keys that can be exchanged and thresholds that one stolen key does not reach. `publish` is for
who keeps a registry, `client` for who reads one, `packaged` for the one that ships; all of them give or make a `View`.
"""
