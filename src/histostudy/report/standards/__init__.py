"""Reporting standards: TRIPOD+AI and REMARK, filled with what a run knows."""
