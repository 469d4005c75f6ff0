"""The toolchain: from a policy to code, firmware, measurements and a report."""
