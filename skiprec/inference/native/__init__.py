"""The native executor: histories in, lists of items out, in one call of a C++ library."""
