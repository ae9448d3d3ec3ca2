"""From a folder of class folders to decoded pictures, split once and for all."""
