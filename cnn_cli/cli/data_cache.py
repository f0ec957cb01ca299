"""`cnn data cache`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Format, flag


@command("data cache")
def data_cache_command(format: Format, clear: bool = flag("Data", "Delete all cached images.")) -> None:
    """List the cached images of folders that do not fit in memory, or delete them.

    Such images are decoded once and kept at the size of the network's input, in ~/.cache/cnn/images.
    """
    from cnn_cli.data.image_cache import clear_caches, list_caches

    format.check()
    if clear:
        clear_caches()
    format.emit(list_caches())
