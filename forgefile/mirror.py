"""What the trouble of a mirror looks like to those who download from it. Unaware of who they are."""

RETRIES = 2
"""How often a download is tried again."""
TROUBLE = ("Failed to fetch", "index files failed to download", "Failed getting release file", "Couldn't download")
"""What apt-get(8) and debootstrap(8) say, in English, when a mirror did not answer or was being updated.

They say other things of a package or a suite that is not there, which no try will bring.
"""
