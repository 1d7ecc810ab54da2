"""Bytes and headers <-> envelope: CloudEvents 1.0 in binary mode, limits first. Pure. People import `codec.wire`."""
