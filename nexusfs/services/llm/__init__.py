"""Models: how a call reaches a provider, and what stands in when there is none.

    agent loop ── ModelRouter (router.py)        one call: aliases, retries, fallbacks
                    ├── OfflineModels (offline.py)   offline/echo, offline/script:PATH, offline/demo
                    └── WorkerClient (client.py)     JSON Lines over a socketpair
                          └── worker.py              own process: asyncio, litellm, the keys

The kernel's process imports neither litellm nor asyncio and never holds a provider's key: the keys
go from `nexusfs mount` to the worker in a sealed memfd. `script.py` is the one parser of scripts;
it feeds offline/script and mock_server.py, an OpenAI-compatible endpoint for tests and demos. The
modules that the worker shares with tests (`failure.py`, `assembly.py`, `keys.py`) need neither
litellm nor asyncio.
"""
