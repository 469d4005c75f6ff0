"""Makes what all tests share importable: `graphs`, `exports` and `parity`."""
