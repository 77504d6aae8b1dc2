"""What the trouble of a mirror looks like to those who download from it. Unaware of who they are."""

RETRIES = 2
"""How often a download is tried again."""
_UNREACHABLE = (
    *("Temporary failure resolving", "Could not resolve", "System error resolving", "Something wicked happened"),
    *("Could not connect to", "could not connect to", "Cannot initiate the connection", "Unable to connect to"),
    *("Connection failed", "onnection timed out", "Connection reset", "Timed out while", "Could not wait for server"),
    *("Could not handshake", "Error reading from server", "Reading from proxy failed", "Undetermined Error"),
    "The HTTP server sent an invalid",
)
_BUSY = ("  408  ", "  429  ", "  500  ", "  502  ", "  503  ", "  504  ")
"""Status codes (RFC 9110, section 15), as apt-get(8) tells them. No try mends others, such as 401 and 403."""
_BEING_UPDATED = (
    *("Hash Sum mismatch", "Size mismatch", "Mirror sync in progress?"),
    *(".deb  404  ", "Packages.xz  404  ", "Packages.gz  404  ", "/by-hash/"),
)
"""What apt-get(8) says of a file that the mirror's own index names."""
_UNTOLD = ("Failed getting release file", "Couldn't download")
"""What debootstrap(8) says whatever the reason is, of which it tells nothing."""
TROUBLE = (*_UNREACHABLE, *_BUSY, *_BEING_UPDATED, *_UNTOLD)
"""What apt-get(8) and debootstrap(8) say, in English, when a mirror did not answer or was being updated.

They say other things of a package, suite, key or password that is not there or is wrong, which no try will bring.
"""
