"""The words of the system: types, protocols and errors that every tier shares.

Nothing here does I/O or imports a tier above; pydantic is the only library.
"""
