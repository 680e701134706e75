"""Commands and configs of other trainers, translated to settings of bwlab."""
