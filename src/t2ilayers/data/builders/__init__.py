"""Data sets that anyone can have: captioned pictures made of packages that everybody can install."""
