"""Receipts that go further: into pictures, as metadata and content credentials, and into traces; off by default"""
