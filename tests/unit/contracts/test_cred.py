"""Credentials: what is looked up, and when."""

from nexusfs.contracts.cred import Credentials


class Looks:
    """Counts the looks at whose agent a thread is."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def __call__(self, host_pid: int) -> int:
        self.at.append(host_pid)
        return 7


def test_the_agent_is_looked_up_once_and_only_when_asked_for() -> None:
    looks = Looks()
    cred = Credentials(0, 0, agent_pid=looks, host_pid=12)
    before = list(looks.at)

    found = (cred.agent_pid, cred.agent_pid)

    assert (before, found, looks.at) == ([], (7, 7), [12])


def test_credentials_to_keep_know_their_agent() -> None:
    looks = Looks()

    kept = Credentials(0, 0, agent_pid=looks, host_pid=12).to_keep()

    assert looks.at == [12] and kept.through("tool").agent_pid == 7 and looks.at == [12]
