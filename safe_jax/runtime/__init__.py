"""What every room stands on, and what knows nothing of images: errors that a user reads, files on a
disk or in a bucket, devices, and hosts that run as one. Nothing here imports another room.
"""
