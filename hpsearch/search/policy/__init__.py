"""What a free worker does next: the policies, pure and rebuilt from stored trials. `contract` is read first."""
