"""Builds the Debian package: wheels, papers, tree, archive. Started by scripts/build-deb."""
