"""What agents say of themselves in their own output: pure functions of bytes."""
