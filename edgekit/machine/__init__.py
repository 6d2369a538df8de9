"""What this machine is and lacks: processor, memory, system calls, and what runs out."""
