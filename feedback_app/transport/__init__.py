"""How records come in and go out: whole batches from Faust's consumer, and a transactional producer a partition."""
