"""The filesystems: ordinary files (storefs) and the control trees procfs, dispatchfs and sysfs.

Each control tree is tables of rows over the kernel's toolkit, `kernel.vfs.kernfs`.
"""
