"""The reader of the authors' files, where scripts of earlier versions import it; it is `giraffe_hd.paper.official`."""

from giraffe_hd.paper.official import config_of as config_of
