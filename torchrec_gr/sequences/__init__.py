"""What a token sequence is: the batch of requests and where its tokens stand."""
