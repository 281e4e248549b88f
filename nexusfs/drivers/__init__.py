"""Drivers: what stores bytes. Each implements a port of `contracts.store`.

    store_local      a directory: lock, and the parts below under one roof; `open_store`
      meta_sql       metadata: names, attributes, extents, xattrs     (port MetaStore)
        meta_inodes, meta_rename, meta_extents, meta_xattr            its parts
        meta_cache   attributes and names in memory, exact
        meta_schema  tables and version
        sqlite       the dialect: connection, transactions, errors
      blob_local     contents of 4 KiB and more                       (port BlobStore)
      blob_memory    the fake
      room           the reserve file, and what may go on when the disk is full
      network        which disks are refused
      journal_sqlite agents' lines and replies of calls               (ports Journal, CallLog)

Durability. A change is committed to SQLite's WAL before it is acknowledged, so that it survives
the death of the process. A sync writes blobs to disk first, then the WAL that names them; only
then are blobs deleted that the synced state no longer names. A checkpoint follows a sync.

A full disk. What makes a store grow is ENOSPC; removals go on, with the space of the reserve
file (`room`), which comes back before anything may grow again.

Snapshots and forks are not there yet; the schema has their place. `layer` has one row, and
inodes and edges carry (layer, version) in their keys. A snapshot or fork is one more row of
`layer` (its parent, and the parent's version where it was cut) and a higher version of the
parent: rows older than that are copied when they change. `inode.body`, which names extents and
xattrs, lets such copies share content until one is written. `meta_schema` has the details.
"""
