"""Programs that people use on files: each does its work in the mount, and what it made is right."""

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.fuse.conftest import Mounts
from tests.torture.part import PartFailedError, Plan, check_quiet, need, run

FILES = 1000
WRITERS = 4
ROWS = 100


def programs(plan: Plan) -> str:
    """Each program on a new mount, a fresh directory for each."""
    need("git", package="git")
    need("rsync", package="rsync")
    need("sqlite3", package="sqlite3")
    need("busybox", package="busybox")
    source = plan.directory / "source"
    _make_tree(source)
    mounts = Mounts(plan.directory)
    try:
        mnt = mounts.mount()
        for program in PROGRAMS:
            where = mnt / program.__name__
            where.mkdir()
            program(where, source)
        check_quiet(mounts)
    finally:
        mounts.close()
    return ", ".join(program.__name__ for program in PROGRAMS)


def _make_tree(top: Path) -> None:
    """Files of all kinds and sizes, odd names, links, old times."""
    for number in range(FILES):
        path = top / f"d{number % 7}/e{number % 13}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * number % 20_011))
    (top / "large").write_bytes(os.urandom(9 << 20))
    (top / "naïve \n name").write_text("odd\n")
    (top / "run").write_text("#!/bin/sh\necho ran\n")
    (top / "run").chmod(0o750)
    os.symlink("d0/e0", top / "link")
    os.symlink("nowhere", top / "dangling")
    os.link(top / "large", top / "hard")
    os.mkfifo(top / "fifo")
    os.utime(top / "run", ns=(1_700_000_000_123_456_789, 1_600_000_000_987_654_321))
    os.truncate(top / "large", 40 << 20)


def bash(where: Path, script: str, *words: str | Path) -> str:
    """What a script says; it ends at the first failure."""
    return run("bash", "-euo", "pipefail", "-c", script, "bash", *words, cwd=where)


def expect(said: str, wanted: str) -> None:
    """Fails unless a program said the right thing."""
    if said.strip() != wanted:
        raise PartFailedError(f"said {said.strip()!r}, not {wanted!r}")


def alike(one: Path, other: Path) -> None:
    """Names, types, modes, times, links, contents and attributes are the same."""
    expect(bash(one, 'rsync -aHXnic --delete "$1/" "$2/"', one, other), "")


def rsync(where: Path, source: Path) -> None:
    """-a there and back; a second run has nothing to do."""
    bash(where, 'rsync -aH "$1/" in && rsync -aH in/ out', source)
    alike(source, where / "out")
    expect(bash(where, 'rsync -aHi "$1/" in', source), "")


def tar(where: Path, source: Path) -> None:
    """In, and out again, with a compressed archive between."""
    bash(where, 'tar czf t.tgz -C "$1" . && mkdir in && tar xpf t.tgz -C in', source)
    bash(where, "tar cf t.tar --sparse -C in . && mkdir out && tar xpf t.tar -C out")
    alike(source, where / "out")


def cp_and_mv(where: Path, source: Path) -> None:
    """A tree is copied, moved into and out of a directory, and removed."""
    bash(where, 'cp -a "$1" a && mv a b && mkdir c && mv b c/ && mv c/b a && rmdir c', source)
    alike(source, where / "a")
    bash(where, 'busybox cp -a a d && rm -r a && mv d e && rm -rf e && test -z "$(ls -A)"')


def git(where: Path, source: Path) -> None:
    """init, commit, branch, merge, clone, gc, fsck."""
    script = """
        export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
        git config --global user.email a@b && git config --global user.name a
        git config --global init.defaultBranch main
        mkdir one && cd one && git init -q && cp -r "$1"/d* "$1/run" .
        git add . && git commit -qm 1
        git checkout -q -b other && git mv d0 moved && git commit -qm 2
        git checkout -q main && echo more >> run && git commit -qam 3 && git merge -q -m 4 other
        test -z "$(git status --porcelain)"
        cd .. && git clone -q one two && cd two && git gc -q --prune=now && git repack -adq
        git fsck --full --strict --no-progress
        echo x > new && git stash -qu && git stash pop -q && git clean -qfd
        git worktree add -q ../three other
        git log --oneline | wc -l; git diff --stat HEAD origin/main
        test -z "$(git -C ../three status --porcelain)"
        diff -r --no-dereference --exclude .git ../one .
    """
    expect(bash(where, script, source).splitlines()[-1], "4")


def sqlite(where: Path, source: Path) -> None:
    """Several processes write to one database, with a rollback journal, then with a WAL."""
    for mode in ("delete", "truncate", "persist", "wal"):
        script = """
            sqlite3 "$1.db" "PRAGMA journal_mode=$1; CREATE TABLE t(w, n, PRIMARY KEY (w, n))"
            for w in $(seq "$2"); do (
                seq "$3" | sed "s/.*/INSERT INTO t VALUES($w, &);/" |
                sqlite3 -cmd '.timeout 60000' -cmd 'PRAGMA synchronous=NORMAL' "$1.db"
            ) & done
            for w in $(seq "$2"); do wait -n; done
            sqlite3 "$1.db" 'PRAGMA integrity_check; SELECT count(*) FROM t' | tr '\\n' ' '
        """
        said = bash(where, script, mode, str(WRITERS), str(ROWS))
        expect(said.splitlines()[-1], f"ok {WRITERS * ROWS}")


def pip(where: Path, source: Path) -> None:
    """A virtual environment in the mount, and a wheel that is made here installed into it."""
    wheel = _wheel(where)
    bash(where, '"$1" -m venv env && env/bin/pip install -q --no-index "$2"', sys.executable, wheel)
    expect(bash(where, "env/bin/madehere"), "499 modules")
    bash(where, "env/bin/pip check -q && env/bin/pip uninstall -qy madehere")
    expect(bash(where, "ls -d env/lib/python*/site-packages/madehere* 2>/dev/null || true"), "")


def _wheel(where: Path) -> Path:
    """A wheel of 500 modules and a command. Source: packaging.python.org, binary format."""
    info = "madehere-1.0.dist-info"
    files = {f"madehere/m{number}.py": f"X = {number}\n" for number in range(499)}
    files["madehere/__init__.py"] = ""
    files["madehere/command.py"] = (
        "import pkgutil, madehere\n"
        "def main():\n"
        "    print(len(list(pkgutil.iter_modules(madehere.__path__))) - 1, 'modules')\n"
    )
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: madehere\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = "[console_scripts]\nmadehere = madehere.command:main\n"
    record = f"{info}/RECORD"
    files[record] = "".join(f"{name},,\n" for name in [*files, record])
    path = where / "madehere-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def make(where: Path, source: Path) -> None:
    """A build of 200 steps: a second has nothing to do, one after a change does what is needed."""
    rules = "".join(f"o{n}: s{n}\n\t@cp s{n} o{n} && echo {n}\n" for n in range(200))
    names = " ".join(f"o{n}" for n in range(200))
    (where / "Makefile").write_text(f"all: {names}\n\t@cat {names} > all\n{rules}")
    for number in range(200):
        (where / f"s{number}").write_text(f"{number}\n")
    bash(where, "make -j4 > /dev/null")
    expect(bash(where, "make"), "make: 'all' is up to date.")
    expect(bash(where, "echo new > s7; make; grep -c . all"), "7\n200")


def editors(where: Path, source: Path) -> None:
    """What editors do to save: in place, by a new file and rename, with a backup; and sed -i."""
    script = """
        echo one > f; sed -i s/one/two/ f; busybox sed -i s/two/three/ f
        perl -pi -e s/three/four/ f
        cp -p f f~ && echo five > f && cat f f~
        ln f link && echo six > .f.swp && sync .f.swp && mv .f.swp f && cat f link
        mktemp -p . > /dev/null; rm tmp.*; ls -A
    """
    expect(bash(where, script), "five\nfour\nsix\nfive\nf\nf~\nlink")
    path = where / "g"
    for number in range(50):
        temporary = where / f".g.{number}"
        with open(temporary, "w") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        expect(path.read_text(), str(number))
    expect(str(len(os.listdir(where))), "4")


def shells(where: Path, source: Path) -> None:
    """Pipes, here documents, find, xargs, sort, du, tee, split, dd, locks and scripts."""
    script = r"""
        seq 100000 | tee n > o; sort -r n | sort -n | cmp - n; cmp o n
        split -b 10000 n p. && cat p.* | cmp - n && rm p.*
        dd if=n of=m bs=7777 status=none && cmp n m
        dd if=/dev/zero of=m bs=1 count=9 conv=notrunc status=none
        head -c 9 m | od -An -c | tr -d ' \n'; echo
        mkdir -p a/b/c && touch a/b/c/{1..50} && find a -type f -print0 | xargs -0 rm
        rmdir -p a/b/c
        echo 0 > count
        for i in $(seq 20); do (flock 9; echo $(($(cat count) + 1)) > count) 9>lock & done
        wait; cat count
        printf '#!/bin/sh\necho ran\n' > s && chmod +x s && ./s && cp s t && ./t
        mkfifo p && (seq 1000 > p &) && wc -l < p
        (umask 077; : > private) && stat -c %a private
        truncate -s 5G big && stat -c %s big && du -k big
    """
    wanted = r"\0\0\0\0\0\0\0\0\0 20 ran ran 1000 600 5368709120 0 big"
    expect(" ".join(bash(where, script).split()), wanted)


PROGRAMS: tuple[Callable[[Path, Path], None], ...] = (
    rsync, tar, cp_and_mv, git, sqlite, pip, make, editors, shells,
)  # fmt: skip
