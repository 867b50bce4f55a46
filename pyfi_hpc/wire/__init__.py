"""What travels between processes: values, messages, frames and ids, with their limits."""
