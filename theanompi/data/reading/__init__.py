"""What a rank reads of a data set: its order, and loader processes that read ahead."""
